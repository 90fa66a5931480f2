//! How the page looks, in light and in dark.

pub(super) const STYLE: &str = r":root {
  --page: #fbfbfa; --card: #ffffff; --ink: #1c2024; --soft: #60666d; --line: #e2e4e8; --grid: #eceef1;
  --good: #18794e; --good-back: #e3f5ec; --bad: #b42318; --bad-back: #fdecea; --warn: #8a5a00; --warn-back: #fff4de;
  --c0: #2563eb; --c1: #d97706; --c2: #b8326f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111417; --card: #191d21; --ink: #e8eaed; --soft: #9aa2ab; --line: #2b3138; --grid: #242a30;
    --good: #57d9a3; --good-back: #12352a; --bad: #ff8f85; --bad-back: #41201d; --warn: #f2c063; --warn-back: #3a2e14;
    --c0: #6ea8fe; --c1: #f5a94a; --c2: #f07fb4;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 940px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 23px; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 16px; margin: 0 0 4px; }
header p { margin: 6px 0; color: var(--soft); }
.note { margin: 0 0 8px; color: var(--soft); font-size: 13px; }
.verdict { display: inline-block; padding: 0 10px; margin-right: 6px; border-radius: 99px; font-weight: 600; }
.good { color: var(--good); } .verdict.good { background: var(--good-back); }
.bad { color: var(--bad); } .verdict.bad { background: var(--bad-back); }
header p.bad, header p.warn { padding: 8px 12px; border-radius: 8px; overflow-wrap: anywhere; }
header p.bad { color: var(--bad); background: var(--bad-back); }
header p.warn { color: var(--warn); background: var(--warn-back); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 22px 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; }
section { padding: 16px 18px; margin: 0 0 16px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 8px; border-bottom: 1px solid var(--grid); text-align: right; font-weight: 400; }
tr:last-child th, tr:last-child td { border-bottom: 0; }
th { color: var(--soft); white-space: nowrap; }
th:first-child, .facts td { text-align: left; }
.facts th { width: 1%; vertical-align: top; padding-right: 18px; }
.facts td { overflow-wrap: anywhere; }
.facts td:first-of-type:not(:last-child) { white-space: nowrap; width: 1%; }
.wide { overflow-x: auto; }
.wide + table { margin-top: 10px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--line); }
svg .plot { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); } svg .c2 { stroke: var(--c2); }
svg .dot.c0 { fill: var(--c0); } svg .dot.c1 { fill: var(--c1); } svg .dot.c2 { fill: var(--c2); }
";
