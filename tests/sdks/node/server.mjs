// The server SDK and its OFREP provider, as they come. Answers what each question of stdin comes to, a line each:
//   {"type": "boolean", "flag": "new-checkout", "default": false, "context": {"targetingKey": "ada"}}
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';

const require = createRequire(process.env.NODE_PACKAGES + '/');
const { OpenFeature } = require('@openfeature/server-sdk');
const { OFREPProvider } = require('@openfeature/ofrep-provider');

const headers = [['Authorization', `Bearer ${process.env.TOKEN}`]];
if (process.env.ENVIRONMENT) headers.push(['X-Crossfade-Environment', process.env.ENVIRONMENT]);
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: process.env.URL_OF_SERVER, headers }));
const client = OpenFeature.getClient();
const ask = {
  boolean: (one) => client.getBooleanDetails(one.flag, one.default, one.context ?? {}),
  string: (one) => client.getStringDetails(one.flag, one.default, one.context ?? {}),
  number: (one) => client.getNumberDetails(one.flag, one.default, one.context ?? {}),
  object: (one) => client.getObjectDetails(one.flag, one.default, one.context ?? {}),
};
console.log(JSON.stringify({ ready: process.version, status: client.providerStatus }));
for await (const line of createInterface({ input: process.stdin })) {
  const one = JSON.parse(line);
  console.log(JSON.stringify(await ask[one.type](one)));
}
await OpenFeature.close();
