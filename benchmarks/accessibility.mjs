// Check pages with axe in Chromium: desktop and phone, light and dark, every table unfolded.
//
//   npm install axe-core@4.14 puppeteer-core
//   node CLONE/benchmarks/accessibility.mjs runs/digits/report/index.html
//
// Run it where the two packages were installed. CHROMIUM names the browser, /usr/bin/chromium by
// default. The exit code is 1 if axe finds a violation, the page is wider than the screen, or a
// script of the page fails.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const { default: puppeteer } = await import(pathToFileURL(require.resolve("puppeteer-core")));
const sizes = [[1280, 900], [390, 844]];
const schemes = ["light", "dark"];

// The marks of charts that the arrow keys reach, one after the other, and say what they show.
async function stepThroughCharts(page) {
  return page.evaluate(() => {
    const problems = [];
    for (const chart of document.querySelectorAll("svg[data-near]")) {
      const marks = [...chart.querySelectorAll(".mark")];
      const stops = marks.filter((mark) => mark.getAttribute("tabindex") === "0");
      if (marks.length && stops.length !== 1) problems.push(`${stops.length} tab stops`);
      if (marks.length < 2) continue;
      stops[0].focus();
      stops[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      if (document.activeElement !== marks[1]) problems.push(`${chart.ariaLabel}: no next mark`);
    }
    return problems;
  });
}

async function check(browser, file, [width, height], scheme) {
  const page = await browser.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.setViewport({ width, height, isMobile: width < 500, hasTouch: width < 500 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(pathToFileURL(resolve(file)));
  const actual = await page.evaluate(() => {
    document.querySelectorAll("details").forEach((details) => (details.open = true));
    return document.documentElement.scrollWidth;
  });
  if (actual > width) problems.push(`the page is ${actual} pixels wide`);
  problems.push(...(await stepThroughCharts(page)));
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => window.axe.run());
  for (const { id, impact, nodes } of violations) {
    problems.push(`${id} (${impact}), ${nodes.length} times, first: ${nodes[0].html.slice(0, 200)}`);
  }
  await page.close();
  console.log(`${file}  ${width} pixels, ${scheme}: ${passes.length} rules, ${problems.length} problems`);
  for (const problem of problems) console.log(`  ${problem}`);
  return problems.length;
}

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
let found = 0;
for (const file of process.argv.slice(2)) {
  for (const size of sizes) {
    for (const scheme of schemes) found += await check(browser, file, size, scheme);
  }
}
await browser.close();
process.exit(found ? 1 : 0);
