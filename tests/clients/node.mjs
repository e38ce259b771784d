// Segment's SDK for Node against the service: takes its address. Exits with 1 where a call is refused.
import { Analytics } from "@segment/analytics-node";

const analytics = new Analytics({ writeKey: "key", host: process.argv[2], maxEventsInBatch: 7 });
let failed;
analytics.on("error", (error) => { failed = error; });
for (let number = 0; number < 50; number++) {
  analytics.track({ userId: "node", event: "view", properties: { price: number + 0.5, tags: ["a", "b"] } });
}
analytics.identify({ userId: "node", anonymousId: "before", traits: { plan: "gold" } });
analytics.page({ userId: "node", name: "Home", properties: { path: "/" } });
analytics.group({ userId: "node", groupId: "acme" });
analytics.alias({ userId: "node", previousId: "before" });
await analytics.closeAndFlush({ timeout: 20000 });
if (failed) {
  console.error(failed);
  process.exit(1);
}
