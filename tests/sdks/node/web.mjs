// The web SDK and its OFREP provider, as they come: all flags at once, by their tag, and again when the server says so.
// Node has no EventSource of its own: the one below does what the provider needs of a browser's. Each line of stdin asks
// what a flag is by now; "context" changes the context first. Events of the provider are told as they come.
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';

class EventSourceByFetch extends EventTarget {
  static CLOSED = 2;
  constructor(url) {
    super();
    this.readyState = 0;
    this._abort = new AbortController();
    this._run(url);
  }
  async _run(url) {
    while (this.readyState !== 2) {
      try {
        const answer = await fetch(url, { headers: { Accept: 'text/event-stream' }, signal: this._abort.signal });
        if (answer.status !== 200) throw Object.assign(new Error(`answered ${answer.status}`), { fatal: true });
        this.readyState = 1;
        this.dispatchEvent(new Event('open'));
        let text = '';
        const decoder = new TextDecoder();
        for await (const chunk of answer.body) {
          text += decoder.decode(chunk, { stream: true });
          const events = text.split('\n\n');
          text = events.pop();
          for (const event of events) {
            const data = event.split('\n').filter((l) => l.startsWith('data:')).map((l) => l.slice(5).trim());
            if (data.length) this.dispatchEvent(new MessageEvent('message', { data: data.join('\n') }));
          }
        }
        throw new Error('ended');
      } catch (error) {
        if (this.readyState === 2) return;
        this.readyState = error.fatal ? 2 : 0;
        this.dispatchEvent(new Event('error'));
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  }
  close() {
    this.readyState = 2;
    this._abort.abort();
  }
}
if (process.env.POLL === undefined) globalThis.EventSource = EventSourceByFetch;

const asked = [];
async function counted(input, init) {
  const answer = await fetch(input, init);
  asked.push([answer.status, input.headers.get('If-None-Match')]);
  return answer;
}

const require = createRequire(process.env.NODE_PACKAGES + '/');
const { OpenFeature, ProviderEvents } = require('@openfeature/web-sdk');
const { OFREPWebProvider } = require('@openfeature/ofrep-web-provider');

const say = (what) => console.log(JSON.stringify(what));
const headers = [['Authorization', `Bearer ${process.env.TOKEN}`]];
if (process.env.ENVIRONMENT) headers.push(['X-Crossfade-Environment', process.env.ENVIRONMENT]);
const options = { baseUrl: process.env.URL_OF_SERVER, headers, cacheMode: 'disabled', fetchImplementation: counted };
if (process.env.POLL !== undefined) options.pollInterval = Number(process.env.POLL);
await OpenFeature.setContext({ targetingKey: 'ada' });
await OpenFeature.setProviderAndWait(new OFREPWebProvider(options));
const client = OpenFeature.getClient();
client.addHandler(ProviderEvents.ConfigurationChanged, (d) => say({ event: 'changed', flags: d?.flagsChanged ?? [] }));
client.addHandler(ProviderEvents.Stale, () => say({ event: 'stale' }));
const ask = {
  boolean: (one) => client.getBooleanDetails(one.flag, one.default),
  string: (one) => client.getStringDetails(one.flag, one.default),
  number: (one) => client.getNumberDetails(one.flag, one.default),
  object: (one) => client.getObjectDetails(one.flag, one.default),
};
say({ ready: process.version });
for await (const line of createInterface({ input: process.stdin })) {
  const one = JSON.parse(line);
  if (one.context) await OpenFeature.setContext(one.context);
  say(one.type === 'requests' ? asked : ask[one.type](one));
}
await OpenFeature.close();
process.exit(0);
