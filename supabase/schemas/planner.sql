-- How the verbs are planned; run after them, as replacing a function forgets its settings.
--
-- Every lookup of a verb is by a full key, so plans that read whole tables are switched off and the plan made first is kept: it is right however
-- large the tables are and whatever statistics say. What a verb calls runs under its settings.

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select oid from pg_catalog.pg_proc
    where pronamespace = 'whatsapp'::regnamespace
      and proname in ('enqueue', 'claim', 'settle', 'ingest', 'enqueue_campaign', 'record_consents')
  loop
    execute format(
      'alter function %s set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1
        set jit = off set plan_cache_mode = force_generic_plan', v_function);
  end loop;
  -- These have no plans worth keeping, only lookups to hold to their indexes.
  alter function whatsapp.announce(jsonb[]) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.sweep_old(integer, interval) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.forget_messages(integer) set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off;
  alter function whatsapp_internal.sweep_parked(integer)
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set join_collapse_limit = 1;
end
$$;
