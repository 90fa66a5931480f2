#!/usr/bin/env node
// Checks the WebSocket side of a running echopay from outside, as a client would see it.
//
//   node scripts/test-websocket-integration.js [http://127.0.0.1:8001]     (or ECHOPAY_URL)
//
// Needs Node 18 or newer and `npm ci` in this folder. The server must open wallets on sight (`echopay dev`), or
// FROM_WALLET and TO_WALLET must name two that exist, the first with money. With tokens: TOKEN.
// Prints each check; ends with 1 when one failed.
'use strict';

const { randomUUID } = require('node:crypto');
const WebSocket = require('ws');

const base = (process.argv[2] || process.env.ECHOPAY_URL || 'http://127.0.0.1:8001').replace(/\/+$/, '');
const socketUrl = `${base.replace(/^http/, 'ws')}/ws/transactions`;
const token = process.env.TOKEN;
const from = process.env.FROM_WALLET || randomUUID();
const to = process.env.TO_WALLET || randomUUID();
const WAIT_MS = 15_000;

let passed = 0;
let failed = 0;

function check(name, condition, details) {
  if (condition) {
    passed += 1;
    console.log(`ok      ${name}`);
  } else {
    failed += 1;
    console.log(`FAILED  ${name}${details === undefined ? '' : `: ${JSON.stringify(details)}`}`);
  }
}

const headers = token ? { authorization: `Bearer ${token}` } : {};

async function call(method, path, body) {
  const response = await fetch(base + path, {
    method,
    headers: { ...headers, 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(WAIT_MS),
  });
  return { status: response.status, json: await response.json() };
}

const transfer = (amount) =>
  call('POST', '/api/v1/transactions', { from_wallet: from, to_wallet: to, amount, currency: 'USD-CBDC' });

// A connection whose messages are waited for one by one, in order.
class Client {
  static async open() {
    const client = new Client();
    client.socket = new WebSocket(socketUrl, { headers });
    client.heard = [];
    client.waiting = [];
    client.pongs = 0;
    client.socket.on('message', (data) => client.take(JSON.parse(data.toString())));
    client.socket.on('pong', () => {
      client.pongs += 1;
    });
    client.closed = new Promise((resolve) => {
      client.socket.on('close', (code) => resolve(code));
    });
    await new Promise((resolve, reject) => {
      client.socket.once('open', resolve);
      client.socket.once('error', reject);
    });
    client.socket.on('error', (error) => client.take({ type: 'socket error', error: String(error) }));
    return client;
  }

  take(message) {
    const next = this.waiting.shift();
    if (next) next(message);
    else this.heard.push(message);
  }

  say(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  // The next message, or { type: 'nothing' } after WAIT_MS.
  hear() {
    if (this.heard.length > 0) return Promise.resolve(this.heard.shift());
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.waiting = this.waiting.filter((other) => other !== take);
        resolve({ type: 'nothing' });
      }, WAIT_MS);
      const take = (message) => {
        clearTimeout(timer);
        resolve(message);
      };
      this.waiting.push(take);
    });
  }

  async subscribe(fields) {
    this.say({ type: 'subscribe', ...fields });
    return this.hear();
  }

  async close() {
    this.socket.close(1000);
    return this.closed;
  }
}

async function lifecycle() {
  const client = await Client.open();
  check('a connection opens', true);
  const subscribed = await client.subscribe({ wallet_ids: [from] });
  check('subscribe is answered', subscribed.type === 'subscribed', subscribed);
  check('the answer names the subscription', typeof subscribed.data?.subscriber_id === 'string', subscribed);
  check('the answer repeats the filter', subscribed.data?.filter?.wallet_ids?.[0] === from, subscribed);
  check('the answer has journal and sequence',
    typeof subscribed.journal === 'string' && Number.isInteger(subscribed.sequence), subscribed);

  const posted = await transfer(12.5);
  check('a transfer is accepted', posted.status === 201 && posted.json.status === 'completed', posted);
  const id = posted.json.transaction_id;

  const pending = await client.hear();
  check('pending is heard', pending.type === 'status_update' && pending.data.status === 'pending'
    && pending.data.message === 'Transaction created and processing', pending);
  const completed = await client.hear();
  check('completed is heard', completed.data?.status === 'completed'
    && completed.data.message === 'Transaction completed successfully', completed);
  check('both are of this transaction',
    pending.data?.transaction_id === id && completed.data?.transaction_id === id, { id, pending, completed });
  check('sequences rise', completed.sequence > pending.sequence && pending.sequence > subscribed.sequence,
    [subscribed.sequence, pending.sequence, completed.sequence]);
  check('updates name the subscription',
    completed.subscriber_ids?.length === 1 && completed.subscriber_ids[0] === subscribed.data.subscriber_id, completed);

  for (const [score, text] of [
    [0.85, 'High fraud risk detected'],
    [0.5, 'Medium fraud risk detected'],
    [0.1, 'Low fraud risk'],
  ]) {
    const scored = await call('PATCH', `/api/v1/transactions/${id}/fraud-score`, { score });
    check(`fraud score ${score} is accepted`, scored.status === 200, scored);
    const update = await client.hear();
    check(`fraud score ${score} is heard as "${text}"`,
      update.data?.message === text && update.data.fraud_score === score && update.data.status === 'completed', update);
  }

  const reversal = await call('PATCH', `/api/v1/transactions/${id}/status`, { status: 'reversed' });
  check('a reversal is accepted', reversal.status === 200, reversal);
  const reversed = await client.hear();
  check('the reversal is heard', reversed.data?.status === 'reversed'
    && reversed.data.message === 'Transaction reversed', reversed);

  client.say({ type: 'unsubscribe' });
  const unsubscribed = await client.hear();
  check('unsubscribe is answered', unsubscribed.type === 'unsubscribed'
    && unsubscribed.data?.status === 'success', unsubscribed);
  await transfer(1);
  client.say({ type: 'ping' });
  const pong = await client.hear();
  check('nothing is heard after unsubscribe, and a ping message is answered', pong.type === 'pong', pong);
  check('the connection closes with the code it was closed with', (await client.close()) === 1000);
  return completed.sequence;
}

async function conversation() {
  const client = await Client.open();
  client.say('{');
  const malformed = await client.hear();
  check('malformed JSON is an error message', malformed.type === 'error', malformed);
  client.say({ type: 'dance' });
  const unknown = await client.hear();
  check('an unknown type is an error message', unknown.data?.message === 'unknown message type', unknown);
  client.socket.ping();
  const until = Date.now() + WAIT_MS;
  while (client.pongs === 0 && Date.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
  check('a ping frame is answered by a pong frame', client.pongs === 1, client.pongs);
  await client.close();
}

async function manyConnections() {
  const clients = await Promise.all(Array.from({ length: 20 }, () => Client.open()));
  const answers = await Promise.all(clients.map((client) => client.subscribe({ wallet_ids: [to], statuses: ['completed'] })));
  check('20 connections subscribe', answers.every((answer) => answer.type === 'subscribed'));
  check('each has a subscription of its own',
    new Set(answers.map((answer) => answer.data?.subscriber_id)).size === clients.length);
  const posted = await transfer(2);
  const updates = await Promise.all(clients.map((client) => client.hear()));
  check('each hears the completion, and only that', updates.every((update) =>
    update.data?.transaction_id === posted.json.transaction_id && update.data.status === 'completed'), updates[0]);
  check('all hear the same sequence', new Set(updates.map((update) => update.sequence)).size === 1);
  await Promise.all(clients.map((client) => client.close()));
}

async function resumption(sequence) {
  const client = await Client.open();
  const subscribed = await client.subscribe({ wallet_ids: [from], after_sequence: sequence });
  check('a subscription from the past starts there', subscribed.sequence === sequence, subscribed);
  const update = await client.hear();
  check('and hears what happened since, in order',
    update.type === 'status_update' && update.sequence > sequence
    && update.data.message === 'High fraud risk detected', update);
  await client.close();
  const beyond = await Client.open();
  const error = await beyond.subscribe({ after_sequence: Number.MAX_SAFE_INTEGER });
  check('a place that does not exist has to be resynchronised', error.type === 'error' && error.resync_required === true, error);
  await beyond.close();
}

async function main() {
  console.log(`checking ${socketUrl}`);
  // Opens the wallets where that is done on sight, so that nobody hears of their opening balances below.
  const first = await transfer(1);
  check('the wallets can pay each other', first.status === 201, first);
  const sequence = await lifecycle();
  await conversation();
  await manyConnections();
  await resumption(sequence);
}

main()
  .catch((error) => check('the script runs to its end', false, String(error.stack || error)))
  .finally(() => {
    console.log(`${passed} passed, ${failed} failed`);
    process.exit(failed === 0 ? 0 : 1);
  });
