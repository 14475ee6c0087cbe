"""How the page looks: one stylesheet for wide and narrow screens, light and dark."""

STYLE = """
:root{color-scheme:light dark;
 --bg:#f7f7f5;--card:#fff;--ink:#1b1d21;--soft:#5a606b;--line:#dcdfe4;--state:#1d5fd1;--action:#b3480b;
 --shade:#0003;--good:#1a7340;--good-bg:#e5f5eb;--warn:#8a5300;--warn-bg:#fdf1d9;--bad:#b3261e;--bad-bg:#fce8e6;
 --episode:#a8c5f3;--gap:#c62f26;--idle:#a9b0ba}
@media (prefers-color-scheme:dark){:root{
 --bg:#131519;--card:#1c1f25;--ink:#e8eaee;--soft:#a5adba;--line:#333945;--state:#7fb0ff;--action:#ffab70;
 --shade:#000a;--good:#74d69a;--good-bg:#163325;--warn:#f3c66b;--warn-bg:#382a10;--bad:#ff9d95;--bad-bg:#431d1a;
 --episode:#2f5490;--gap:#ff7a70;--idle:#667080}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
 "Noto Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main,header,footer{max-width:72rem;margin:0 auto;padding:0 1rem}
header{padding-top:2rem}
h1{font-size:clamp(1.5rem,4vw,2.1rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .3rem;text-wrap:balance}
h2{font-size:1.3rem;line-height:1.3;margin:2.6rem 0 .7rem;letter-spacing:-.01em}
h3{font-size:1.1rem;line-height:1.35;margin:0}
h4{font-size:.95rem;margin:1.3rem 0 .5rem}
p{margin:.4rem 0}
.soft{color:var(--soft)}
.lead{font-size:1.05rem;color:var(--soft);max-width:46rem}
a{color:var(--state)}
:focus-visible{outline:3px solid var(--state);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-100vw}
.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.4rem .8rem;z-index:1}
.verdict{border-radius:.7rem;padding:1rem 1.2rem;margin:1.3rem 0;border-left:.4rem solid}
.verdict p{margin:.2rem 0}
.verdict strong{font-size:1.15rem}
.good{color:var(--good);background:var(--good-bg);border-color:var(--good)}
.warn{color:var(--warn);background:var(--warn-bg);border-color:var(--warn)}
.bad{color:var(--bad);background:var(--bad-bg);border-color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(11.5rem,46%),1fr));gap:.7rem;margin:1rem 0;padding:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.7rem .9rem}
.tiles dt{color:var(--soft);font-size:.85rem;line-height:1.3}
.tiles dd{margin:0;font-size:1.55rem;line-height:1.25;font-weight:650;letter-spacing:-.01em}
.tiles small{display:block;font-size:.8rem;font-weight:400;color:var(--soft);letter-spacing:0;line-height:1.35}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:.7rem;
 background:linear-gradient(to right,var(--card) 40%,transparent),linear-gradient(to left,var(--card) 40%,transparent) 100%,
 linear-gradient(to right,var(--shade),transparent),linear-gradient(to left,var(--shade),transparent) 100%,var(--card);
 background-repeat:no-repeat;background-size:2.5rem 100%,2.5rem 100%,.9rem 100%,.9rem 100%,100%;
 background-attachment:local,local,scroll,scroll,scroll}
table{border-collapse:collapse;width:100%;font-size:.9rem}
.note{color:var(--soft);font-size:.9rem;margin:.3rem 0 .6rem}
th,td{text-align:right;padding:.4rem .8rem;border-top:1px solid var(--line);vertical-align:top;
 overflow-wrap:normal}
th{font-weight:600;color:var(--soft);white-space:nowrap}
thead th{border-top:0;vertical-align:bottom;white-space:normal;line-height:1.25}
tbody th{color:var(--ink);font-weight:500}
.l{text-align:left}
td.words{text-align:left;min-width:14rem;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--line);border-radius:.8rem;padding:1.1rem;margin:1.1rem 0}
.card>header{padding:0;margin:0;max-width:none;display:flex;flex-wrap:wrap;gap:.3rem .9rem;align-items:baseline}
.facts{margin:.2rem 0 0;color:var(--soft);font-size:.9rem}
.marks{display:flex;flex-wrap:wrap;gap:.4rem;list-style:none;margin:.7rem 0 0;padding:0}
.marks li{font-size:.82rem;line-height:1.35;padding:.2rem .65rem;border-radius:.9rem}
.film{display:grid;grid-template-columns:repeat(8,1fr);gap:.3rem;list-style:none;margin:0;padding:0}
.film img{display:block;width:100%;height:auto;border-radius:.3rem;background:var(--line)}
.film span{display:block;text-align:center;font-size:.75rem;color:var(--soft);line-height:1.6}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17rem,100%),1fr));gap:1.1rem 1.6rem}
figure{margin:0;min-width:0}
figcaption{font-size:.84rem;line-height:1.4;margin-bottom:.25rem}
.chart{display:grid;grid-template-columns:3.4rem minmax(0,1fr);column-gap:.4rem;margin-bottom:.3rem}
.axis{display:flex;flex-direction:column;justify-content:space-between;text-align:right;font-size:.72rem;
 line-height:1;color:var(--soft);overflow-wrap:normal;white-space:nowrap}
svg{display:block;width:100%;overflow:visible}
.plot{border-left:1px solid var(--line);border-bottom:1px solid var(--line)}
.line{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.state{stroke:var(--state)}.action{stroke:var(--action)}
.limit{stroke:var(--gap);stroke-width:1;stroke-dasharray:4 4;vector-effect:non-scaling-stroke}
.time{display:flex;justify-content:space-between;font-size:.72rem;color:var(--soft);line-height:1.5}
.key{display:inline-block;width:1.1em;height:.22em;vertical-align:.28em;margin:0 .3em 0 0;background:currentColor}
.key.s{color:var(--state)}.key.a{color:var(--action)}
figcaption .soft{white-space:nowrap}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.1rem 0 .6rem;font-size:.84rem;color:var(--soft)}
.b{display:inline-block;width:.75em;height:.75em;border-radius:.15em;margin:0 .3em 0 0}
.f-episode{fill:var(--episode);background:var(--episode)}.f-this{fill:var(--state);background:var(--state)}
.f-gap{fill:var(--gap);background:var(--gap)}.f-idle{fill:var(--idle);background:var(--idle)}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600;padding:.3rem 0}
pre{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.8rem 1rem;font-size:.8rem;
 line-height:1.45;overflow-x:auto;overflow-wrap:normal}
footer{padding:2.5rem 1rem;color:var(--soft);font-size:.85rem}
@media (max-width:40rem){.film{grid-template-columns:repeat(4,1fr)}.card{padding:.9rem .8rem}h2{margin-top:2rem}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""
