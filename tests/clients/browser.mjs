// Segment's SDK for browsers in headless Chromium: takes the address of the service. The page is served from an
// origin of its own, so that the browser asks the service whether it may send. Exits with 1 where something fails, and with 77
// where the browser does not start.
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const host = process.argv[2].replace("http://", "");
const found = createRequire(import.meta.url).resolve("@segment/analytics-next/package.json");
const script = fs.readFileSync(path.join(path.dirname(found), "dist/umd/index.js"));
const server = http.createServer((request, response) => {
  const script_wanted = request.url === "/analytics.js";
  response.setHeader("content-type", script_wanted ? "text/javascript" : "text/html");
  response.end(script_wanted ? script : "<!doctype html><script src=/analytics.js></script>");
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
let browser;
try {
  browser = await puppeteer.launch({
    args: [...chromium.args, "--no-sandbox"],
    executablePath: await chromium.executablePath(),
    headless: "shell",
  });
} catch (problem) {
  // A machine without the libraries that it needs.
  console.error(`${problem}`);
  process.exit(77);
}
const page = await browser.newPage();
page.on("console", (message) => console.error(message.text()));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
const sent = await page.evaluate(async (host) => {
  const settings = await (await fetch(`http://${host}/v1/projects/key/settings`)).json();
  const { AnalyticsBrowser } = window.AnalyticsNext ?? window;
  const analytics = AnalyticsBrowser.load(
    { writeKey: "key", cdnSettings: settings },
    { integrations: { "Segment.io": { apiHost: `${host}/v1`, protocol: "http" } } },
  );
  await analytics.identify("browser", { plan: "free" });
  for (let number = 0; number < 5; number++) {
    await analytics.track("click", { number });
  }
  await analytics.page("docs", "Start");
  await new Promise((done) => setTimeout(done, 2000));
  return true;
}, host);
await browser.close();
server.close();
process.exit(sent ? 0 : 1);
