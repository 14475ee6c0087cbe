"""How our pages look: one style sheet, written into each page, for screens of any width, light and dark."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --rule: #d9dee3; --back: #f6f7f9; --card: #fff;
  --policy: #c2410c; --recorded: #1f2328; --other: #2563a8; --third: #6b7f2a; --fourth: #8a4fa3; --good: #17692f;
--bad: #b3261e; --mild: #fdf3e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --rule: #353c44; --back: #14181d;
--card: #1c2128;
  --policy: #fb8c4f; --recorded: #e6e9ed; --other: #6cb0ee; --third: #b5c964; --fourth: #c89be0; --good: #5fcf80;
--bad: #ff8a80; --mild: #2c251b; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
Roboto, sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 20px; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--soft); }
h2 { font-size: 1.25rem; margin: 0 0 4px; }
h3 { font-size: 1rem; margin: 18px 0 6px; }
p { margin: 4px 0 10px; max-width: 72ch; }
a { color: var(--other); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--other); outline-offset:
2px; border-radius: 4px; }
.skip { position: absolute; left: -999px; } .skip:focus { position: static; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; margin: 12px 0; font-size:
.92rem; }
section, .verdict { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px;
margin: 14px 0; }
.verdict { border-left: 8px solid var(--good); } .verdict.no { border-left-color: var(--bad); }
.verdict strong { display: block; font-size: clamp(1.35rem, 4.4vw, 2rem); line-height: 1.2; margin-bottom: 6px; color:
var(--good); }
.verdict.open { border-left-color: var(--third); } .verdict.open strong { color: var(--ink); }
.verdict.no strong { color: var(--bad); }
.note { background: var(--mild); border-radius: 8px; padding: 8px 12px; margin: 10px 0 0; }
.soft, figcaption, .unit { color: var(--soft); font-size: .88rem; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); gap: 10px; margin: 14px 0 0; }
dl.tiles div { background: var(--back); border-radius: 8px; padding: 10px 12px; }
dl.tiles dt { color: var(--soft); font-size: .88rem; } dl.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600;
}
dl.tiles dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .94rem; }
.caption { margin: 10px 0 2px; } dl.origin { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 14px; }
dl.origin dt { color: var(--soft); } dl.origin dd { margin: 0; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } thead th { color: var(--soft); font-weight: 600;
vertical-align: bottom; }
tr.us td, tr.us th { font-weight: 700; color: var(--policy); }
td.meter { width: 26%; min-width: 110px; } td.meter span { display: block; height: 10px; border-radius: 5px;
background: var(--soft); opacity: .55; }
tr.us td.meter span { background: var(--policy); opacity: 1; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 8px 18px; }
.charts figure, figure { margin: 0; min-width: 0; } figcaption { margin-bottom: 2px; }
svg { display: block; width: 100%; height: auto; }
.charts.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.one svg { max-width: 680px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke: var(--soft); }
svg .recorded { stroke: var(--recorded); stroke-width: 1.5; } svg .policy { stroke: var(--policy); stroke-width: 2; }
svg .fan { stroke: var(--policy); stroke-width: 1.2; opacity: .75; }
svg .c0 { stroke: var(--other); } svg .c1 { stroke: var(--third); stroke-dasharray: 6 3; } svg .c2 { stroke:
var(--fourth); stroke-dasharray: 2 3; }
svg .c3 { stroke: var(--soft); stroke-dasharray: 9 3 2 3; } svg .c4 { stroke: var(--policy); stroke-dasharray: 5 2; }
svg .c5 { stroke: var(--ink); stroke-dasharray: 1 2; }
svg .bar { fill: var(--other); opacity: .75; } svg .mark { stroke: var(--policy); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; list-style: none; margin: 4px 0; padding: 0; font-size:
.88rem; color: var(--soft); }
.legend svg { display: inline-block; width: 28px; height: 10px; vertical-align: middle; margin-right: 5px; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(92px, 1fr)); gap: 6px; margin: 4px 0 8px; }
.strip img, .moment img { width: 100%; height: auto; border-radius: 5px; display: block; background: var(--back); }
.strip figcaption { text-align: center; font-size: .8rem; }
.heat { display: grid; grid-template-columns: max-content 1fr; gap: 0 8px; align-items: stretch; font-size: .8rem;
color: var(--soft); }
.heat ol { list-style: none; margin: 0; padding: 0; display: grid; grid-auto-rows: 18px; line-height: 18px;
text-align: right; }
.heat img { width: 100%; height: 100%; image-rendering: pixelated; border-radius: 3px; display: block; }
.moments { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 18px; }
.moment { min-width: 0; } .moment h3 { margin-top: 0; } .moment .pair { display: grid; grid-template-columns:
repeat(auto-fit, minmax(120px, 1fr)); gap: 6px; margin-bottom: 6px; }
details { border-top: 1px solid var(--rule); padding: 8px 0; }
.one + details, .charts + details { margin-top: 10px; } details > summary { cursor: pointer; padding: 4px 0; }
details details { border: 0; }
summary b { font-weight: 600; }
code { font-size: .88em; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 40px; }
@media (max-width: 480px) { section, .verdict { padding: 14px 12px; border-radius: 10px; } main, header, footer {
padding: 0 10px; } header { padding-top: 14px; }
  th[scope=row] { white-space: normal; min-width: 96px; } td.meter,
  thead td:not(:first-child) { display: none; } dl.origin { grid-template-columns: 1fr; } dl.origin dd { margin-bottom: 6px; }
  .heat { font-size: .7rem; gap: 0 5px; } .strip { grid-template-columns: repeat(4, 1fr); } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
