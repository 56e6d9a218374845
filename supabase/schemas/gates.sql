-- The gates: one function that says why a message may not go now, or nothing. `enqueue` asks it for a clear early answer,
-- `claim` asks it again in the transaction of the lease, so nothing gets past however long it waited.
-- It is pure: everything it needs is an argument. A gate that cannot decide says no.

create or replace function whatsapp_internal.refusal(
  account_state text,
  kind text,
  category text,
  template_status text,
  window_until timestamptz,
  entry_until timestamptz,
  last_inbound_at timestamptz,
  opted_in_at timestamptz,
  opt_in_required boolean,
  opted_out_at timestamptz,
  marketing_opted_out_at timestamptz,
  marketing_cooled_until timestamptz,
  expires_at timestamptz,
  at timestamptz
) returns text
-- Stable, not immutable: arithmetic with intervals is only stable, and only so can the planner fold it into a query.
language sql stable parallel safe
return case
  when account_state = 'disabled' then 'account_disabled'
  when account_state = 'stopped' then 'account_stopped'
  when account_state is null or account_state not in ('active', 'paused') then 'account_disabled'
  -- Whoever asked to be left alone is, until they write again themselves.
  when opted_out_at is not null and (kind = 'template' or coalesce(last_inbound_at <= opted_out_at, true)) then 'opted_out'
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and marketing_opted_out_at is not null
    then 'opted_out'
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and opt_in_required and opted_in_at is null
    then 'not_opted_in'
  -- What Meta holds back is marketing out of the blue. Whoever writes, or comes in through an advertisement (`entry_until`: the later of the
  -- window and the free entry point), has asked for it, and Meta lets it pass until then.
  when kind = 'template' and coalesce(category, 'MARKETING') not in ('UTILITY', 'AUTHENTICATION') and marketing_cooled_until > at
    and coalesce(entry_until - interval '1 minute' <= at, true)
    then 'contact_cooling'
  -- Meta counts the 24 hours from the person's message; a minute is kept for the way to Meta.
  when kind <> 'template' and coalesce(window_until - interval '1 minute' <= at, true) then 'window_closed'
  when kind = 'template' and template_status is null then 'template_unknown'
  when kind = 'template' and template_status = 'PAUSED' then 'template_paused'
  when kind = 'template' and template_status <> 'APPROVED' then 'template_not_approved'
  when expires_at <= at then 'message_expired'
end;
comment on function whatsapp_internal.refusal is 'Why a message may not go now, as a code of docs/whatsapp.md, or null.';

-- When the quiet hours that hold at `at` end, or null if none hold. The end is found on the account's own calendar, not by adding hours, so
-- a night in which the clocks change is no matter.
create or replace function whatsapp_internal.quiet_end(time_zone text, quiet_from time, quiet_until time, at timestamptz) returns timestamptz
language sql stable parallel safe
return case
  when quiet_from is null or quiet_from = quiet_until then null
  when quiet_from < quiet_until and (at at time zone time_zone)::time >= quiet_from and (at at time zone time_zone)::time < quiet_until
    then ((at at time zone time_zone)::date + quiet_until) at time zone time_zone
  when quiet_from > quiet_until and (at at time zone time_zone)::time >= quiet_from
    then ((at at time zone time_zone)::date + 1 + quiet_until) at time zone time_zone
  when quiet_from > quiet_until and (at at time zone time_zone)::time < quiet_until
    then ((at at time zone time_zone)::date + quiet_until) at time zone time_zone
end;
comment on function whatsapp_internal.quiet_end is 'The end of the quiet hours in force, or null. Marketing waits for it; nothing is refused.';
