-- Meta's messaging limit: how many different people a business portfolio may write to first, that is outside an open 24-hour window, in any
-- rolling 24 hours (250, 2,000, 10,000, 100,000, unlimited). Meta counts over all numbers of the portfolio, whatever their country.
-- Source: M:messaging-limits.
--
-- Meta tells the limit (templates-sync, webhooks) but not how much of it is used, so it is counted here, at the moment of the lease:
--   portfolio_people   the minute in which each person was last written to
--   portfolio_minutes  how many people each minute stands for; their sum over 24 hours is what is used, without counting people one by one
-- A minute counts until it lies 24 hours back as a whole: up to a minute more careful than Meta, never less. Who was counted and then not
-- reached stays counted.
--
-- The one place where the house rule "country_id leads every key" cannot hold: the limit stands above countries. So that nothing of a person
-- crosses a border here, a person is a digest, and nobody reads these tables.

create table whatsapp_internal.portfolio_people (
  portfolio text not null,
  person uuid not null,
  minute timestamptz not null,
  primary key (portfolio, person)
) with (fillfactor = 80);
create index portfolio_people_age on whatsapp_internal.portfolio_people (minute);
comment on table whatsapp_internal.portfolio_people is 'When a portfolio last wrote first to a person (a digest), to the minute.';

create table whatsapp_internal.portfolio_minutes (
  portfolio text not null,
  minute timestamptz not null,
  people integer not null,
  primary key (portfolio, minute)
) with (fillfactor = 50);
comment on table whatsapp_internal.portfolio_minutes is 'How many people of portfolio_people a minute stands for.';
