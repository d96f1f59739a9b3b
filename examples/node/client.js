// A client of a page: a session that produces three jobs, one of them for later, works on them,
// fails one of them once, and leaves. docs/reference/grpc.md has the rules that it follows.
//
//     npm ci && node client.js 127.0.0.1:7170

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const address = process.argv[2] ?? "127.0.0.1:7170";
const topic = process.argv[3] ?? "node-jobs";
const definition = loader.loadSync(
  ["sandglass/v1/broker.proto", "sandglass/v1/admin.proto"],
  // Tokens have 64 bits, more than a number of JavaScript can hold.
  { longs: String, keepCase: true, arrays: true, defaults: true, includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))] },
);
const { Broker, Admin } = grpc.loadPackageDefinition(definition).sandglass.v1;
const MessageBatch = definition["sandglass.v1.MessageBatch"];
const credentials = grpc.credentials.createInsecure();
const broker = new Broker(address, credentials);
const admin = new Admin(address, credentials);

// A topic, unless there is one.
await new Promise((resolve, reject) =>
  admin.CreateTopic({ name: topic }, (error) =>
    !error || error.code === grpc.status.ALREADY_EXISTS ? resolve() : reject(error)),
);

const session = broker.Session();
const send = (frame) => session.write(frame);
let heartbeat;
let done = 0;

function produce(request_id, values, columns = {}) {
  const messages = values.map((value) => ({ value: Buffer.from(value) }));
  const batch = MessageBatch.serialize({ messages }); // opaque to the frame: bytes
  send({ produces: [{ request_id, topic, batch, count: values.length, ...columns }] });
}

function work(delivery) {
  const outcome = (kind, places, more) => ({
    subscription_id: delivery.subscription_id,
    partition_number: delivery.partition_number,
    token: delivery.token,
    kind,
    places, // pairs of first place and count; none for all that are open
    ...more,
  });
  const { messages } = MessageBatch.deserialize(delivery.batch);
  const outcomes = messages.map(({ value }, place) => {
    const job = value.toString();
    if (job === "resize" && delivery.attempt === 1) {
      console.log(`attempt 1 of ${job} fails`);
      return outcome("OUTCOME_NACK", [place, 1], { delay_ms: 200, reason: "no memory" });
    }
    console.log(`${job}: done, attempt ${delivery.attempt}`);
    done += 1;
    return outcome("OUTCOME_ACK", [place, 1]);
  });
  outcomes.at(-1).request_id = 7; // with an id it is answered: then it is on the disk
  // What was taken may come again: credit is in messages and bytes, and isn't given back by itself.
  const credits = [{ subscription_id: 1, count: delivery.count, bytes: delivery.batch.length }];
  send({ outcomes, credits });
}

session.on("data", (frame) => {
  if (frame.welcome) {
    heartbeat = setInterval(() => send({}), frame.welcome.heartbeat_ms);
    produce(1, ["resize", "mail"]);
    produce(2, ["remind"], { delay_ms: [500] });
    send({ subscribes: [{ subscription_id: 1, topic, group: "workers", consumer: "node", credit_count: 100, credit_bytes: 1 << 20 }] });
  }
  for (const { request_id, error, placed } of frame.produces) {
    if (error) throw new Error(`${error.reason}: ${error.message}`);
    console.log(`produced ${request_id}: index ${placed[0].first_index}`);
  }
  for (const { error } of [...frame.subscribed, ...frame.outcomes, ...frame.ended]) {
    if (error) throw new Error(`${error.reason}: ${error.message}`);
  }
  frame.deliveries.forEach(work);
  if (done === 3 && frame.outcomes.length > 0) send({ is_goodbye: true });
});

session.on("end", () => {
  clearInterval(heartbeat);
  console.log("goodbye");
  broker.close();
  admin.close();
});
session.on("error", (error) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exit(1);
});

send({ hello: { client_name: "node example" } });
