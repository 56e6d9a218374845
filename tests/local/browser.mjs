// A page of another origin in a real browser, with the official client: signs in, calls functions, reads tables.
// Arguments: the stack's URL, its publishable key, e-mail, password, a message for `send` as JSON. Prints what came back as JSON.
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import chromium from '@sparticuz/chromium'
import puppeteer from 'puppeteer-core'

const library = await readFile(new URL('./node_modules/@supabase/supabase-js/dist/umd/supabase.js', import.meta.url))
const server = createServer((request, response) => {
  const script = request.url === '/supabase.js'
  response.setHeader('content-type', script ? 'text/javascript' : 'text/html')
  response.end(script ? library : '<!doctype html><title>a frontend</title><script src="/supabase.js"></script>')
})
await new Promise((listening) => server.listen(0, '127.0.0.1', listening))

const browser = await puppeteer.launch({
  args: [...chromium.args, '--no-sandbox'],
  executablePath: process.env.CHROME_PATH ?? (await chromium.executablePath()),
  headless: 'shell',
})
try {
  const page = await browser.newPage()
  await page.goto(`http://127.0.0.1:${server.address().port}/`)
  const found = await page.evaluate(async (url, key, email, password, request) => {
    const client = window.supabase.createClient(url, key)
    const signedIn = await client.auth.signInWithPassword({ email, password })
    const headers = { 'Idempotency-Key': crypto.randomUUID() }
    const sent = await client.functions.invoke('send', { headers, body: JSON.parse(request) })
    const refused = await client.functions.invoke('send', { headers, body: {} })
    const polled = await client.functions.invoke(`status-poll?message_id=${sent.data?.message_id}`, { method: 'GET' })
    const read = await client.schema('whatsapp').from('messages').select('message_id').eq('message_id', sent.data?.message_id)
    return {
      user: signedIn.data.user?.email,
      status: sent.data?.status,
      refusal: refused.error && (await refused.error.context.json()).code,
      polled: polled.data?.messages.map((each) => each.message_id),
      read: read.data?.map((each) => each.message_id),
      errors: [signedIn.error, sent.error, polled.error, read.error].filter(Boolean).map(String),
      message_id: sent.data?.message_id,
    }
  }, ...process.argv.slice(2))
  console.log(JSON.stringify(found))
} finally {
  await browser.close()
  server.close()
}
