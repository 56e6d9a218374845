-- The clock: where pg_cron, pg_net and Vault are to be had (hosted Supabase), two jobs call our functions. Elsewhere this file does nothing but say
-- so, and any other scheduler can POST to the same addresses with a secret key. Nothing here may fail: a schedule is not worth a migration.
--
-- The address and the key come from Vault at each tick, so they can be changed without a migration. Until they are set, a tick does nothing:
--   select vault.create_secret('https://functions.example.com/functions/v1', 'whatsapp_functions_url');
--   select vault.create_secret('sb_secret_…', 'whatsapp_cron_key');
--
-- pg_net sends and forgets: a tick may be lost, doubled or overlap the one before. queue-drain is safe under all three.

do $$
begin
  create extension if not exists pg_cron;
  create extension if not exists pg_net with schema extensions;
  create extension if not exists supabase_vault;

  execute $sql$
    create or replace function whatsapp_internal.call_function(p_name text) returns void
    language sql volatile security definer set search_path = ''
    as $body$
      select net.http_post(
        url := address.decrypted_secret || '/' || p_name,
        body := '{}'::jsonb,
        headers := jsonb_build_object('Content-Type', 'application/json', 'apikey', key.decrypted_secret),
        timeout_milliseconds := 60000)
      from vault.decrypted_secrets address, vault.decrypted_secrets key
      where address.name = 'whatsapp_functions_url' and key.name = 'whatsapp_cron_key'
    $body$
  $sql$;

  begin
    perform cron.schedule('whatsapp-queue-drain', '15 seconds', $job$ select whatsapp_internal.call_function('queue-drain') $job$);
  exception when others then
    -- Seconds are known to pg_cron from 1.5 on.
    perform cron.schedule('whatsapp-queue-drain', '* * * * *', $job$ select whatsapp_internal.call_function('queue-drain') $job$);
    raise warning 'queue-drain is called once a minute only: %', sqlerrm;
  end;
  perform cron.schedule('whatsapp-templates-sync', '*/15 * * * *', $job$ select whatsapp_internal.call_function('templates-sync') $job$);
  perform cron.schedule('whatsapp-cron-history', '7 3 * * *',
    $job$ delete from cron.job_run_details where end_time < now() - interval '3 days' $job$);
exception when others then
  raise warning 'nothing is scheduled: call queue-drain and templates-sync by other means (%)', sqlerrm;
end
$$;
