// Lets the project's own address answer: <project>.supabase.co/functions/v1/<name> goes to the Python functions, wherever they run.
//
// A request is passed on as it came, byte for byte and while it is still arriving (Meta's signature is over the very bytes of a webhook), and so is
// the answer. Nothing is decided here: who calls, CORS and every refusal are the Python functions' own. Only what goes wrong on the way
// is answered here, in the shape of their errors, with a status that makes callers, Meta and cron try again.
//
//   WHATSAPP_FUNCTIONS_HOST               where they run, such as https://functions.example.com
//   WHATSAPP_FUNCTIONS_TIMEOUT_SECONDS    how long an answer may take to begin; 100 unless told

const DEFAULT_TIMEOUT_SECONDS = 100;

// What belongs to one connection and not to the message (RFC 9110, 7.6.1), and what fetch sets by itself.
const OF_THE_CONNECTION = [
  "connection",
  "host",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

interface Problem {
  status: number;
  code: string;
  message: string;
  hint: string;
}

const NO_HOST: Problem = {
  status: 503,
  code: "functions_host_missing",
  message: "WHATSAPP_FUNCTIONS_HOST does not say where the functions run.",
  hint: "Set it to an https address: supabase secrets set WHATSAPP_FUNCTIONS_HOST=https://functions.example.com",
};
const UNREACHABLE: Problem = {
  status: 502,
  code: "functions_host_unreachable",
  message: "The host of the functions did not answer.",
  hint: "Try again with the same Idempotency-Key. Whoever runs it: is WHATSAPP_FUNCTIONS_HOST right, and is it up?",
};
const TOO_SLOW: Problem = {
  status: 504,
  code: "functions_host_timeout",
  message: "The host of the functions took too long to answer.",
  hint: "Try again with the same Idempotency-Key.",
};

/** The handler of the function `name`: passes each request on to its Python namesake. */
export function forward(name: string): (request: Request) => Promise<Response> {
  return async (request) => {
    const target = addressOf(name, request);
    if (target === null) return answer(NO_HOST);
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), timeoutSeconds() * 1000);
    try {
      const response = await fetch(target, {
        method: request.method,
        headers: passedOn(request.headers),
        body: request.body,
        redirect: "manual",
        signal: AbortSignal.any([late.signal, request.signal]),
      });
      return new Response(response.body, { status: response.status, headers: passedBack(response.headers) });
    } catch (error) {
      const problem = late.signal.aborted ? TOO_SLOW : UNREACHABLE;
      console.error(JSON.stringify({ event: problem.code, function: name, error: (error as Error).name }));
      return answer(problem);
    } finally {
      clearTimeout(timer);
    }
  };
}

/** Where the request goes, or null without a host that may be told secrets: https, or this very machine. */
function addressOf(name: string, request: Request): URL | null {
  const host = Deno.env.get("WHATSAPP_FUNCTIONS_HOST") ?? "";
  if (!URL.canParse(host)) return null;
  const base = new URL(host);
  const here = ["127.0.0.1", "localhost", "[::1]", "host.docker.internal"].includes(base.hostname);
  if (base.protocol !== "https:" && !(base.protocol === "http:" && here)) return null;
  const asked = new URL(request.url);
  const below = asked.pathname.replace(new RegExp(`^(/functions/v1)?/${name}`), "");
  const target = new URL(`${base.origin}${base.pathname.replace(/\/+$/, "")}/${name}${below}`);
  target.search = asked.search;
  return target;
}

function timeoutSeconds(): number {
  const told = Number(Deno.env.get("WHATSAPP_FUNCTIONS_TIMEOUT_SECONDS"));
  return told > 0 ? told : DEFAULT_TIMEOUT_SECONDS;
}

function passedOn(headers: Headers): Headers {
  const passed = new Headers(headers);
  OF_THE_CONNECTION.forEach((header) => passed.delete(header));
  return passed;
}

/** fetch has unpacked the body already: its packed length and packing would be untrue. */
function passedBack(headers: Headers): Headers {
  const passed = passedOn(headers);
  if (passed.has("content-encoding")) {
    passed.delete("content-encoding");
    passed.delete("content-length");
  }
  return passed;
}

function answer(problem: Problem): Response {
  const { status, code, message, hint } = problem;
  return Response.json({ code, message, details: null, hint, error: message }, {
    status,
    // Without it a browser would hide the reason from its page.
    headers: { "access-control-allow-origin": "*" },
  });
}
