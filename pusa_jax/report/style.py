"""Looks of a report: light or dark as the reader's system is, wide and narrow, on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1d2126; --soft: #626b76;
  --rule: #dfe2e6; --given: #d98200; --shade: #d9820026; --area: #8a94a055; --warn: #b3440a;
  --i0: #2461c4; --i1: #d1600f; --i2: #14855a; --i3: #c02a48; --i4: #7b4fc0; --i5: #0b8c99;
  --i6: #8f7400; --i7: #6a7078 }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --card: #1c2025; --ink: #e6e9ec;
  --soft: #9aa4af; --rule: #343a42; --given: #ffb000; --shade: #ffb00026; --area: #8a94a055;
  --warn: #ff9d5c; --i0: #74a9ff; --i1: #ff9c59; --i2: #4fcf9a; --i3: #ff7a93; --i4: #b99aff;
  --i5: #4fd0dd; --i6: #dcc04a; --i7: #a9b1bb } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 60px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px }
h2 { font-size: 18px; margin: 36px 0 10px }
h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere } p { margin: 4px 0 }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 3px }
.soft, figcaption, small { color: var(--soft) }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--rule) }
thead tr:first-child th { border-top: 0 }
thead th { font-weight: 600; font-size: 13px; color: var(--soft); vertical-align: bottom }
thead small { display: block; font-weight: 400 }
th:first-child, td:first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: var(--card); min-width: 170px; max-width: 300px; white-space: normal;
  overflow-wrap: anywhere }
.words td, .words th { text-align: left; white-space: normal; min-width: 110px; max-width: 420px;
  overflow-wrap: break-word; vertical-align: top }
.high { color: var(--warn); font-weight: 650 }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 8px; background: var(--s) }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 14px 16px; margin: 0 0 14px; content-visibility: auto;
  contain-intrinsic-size: auto 260px }
.card p { font-size: 14px }
.sheet { display: grid; gap: 6px; margin-top: 10px;
  grid-template-columns: repeat(var(--n), minmax(0, 1fr)) }
.sheet figure { margin: 0 } .sheet img { width: 100%; display: block; border-radius: 3px }
.sheet .given img { outline: 3px solid var(--given); outline-offset: -3px }
.sheet .over { border: 1px dashed var(--rule); border-radius: 3px; min-height: 40px }
figcaption { font-size: 12px; line-height: 1.5; font-variant-numeric: tabular-nums }
.given figcaption { color: var(--given); font-weight: 600 }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
svg .end { text-anchor: end } svg .mid { text-anchor: middle }
svg .grid { stroke: var(--rule); fill: none }
svg .line { fill: none; stroke: var(--s, var(--i0)); stroke-width: 1.8;
  vector-effect: non-scaling-stroke; stroke-linejoin: round }
svg .area { fill: var(--area) } svg rect.given { fill: var(--shade) }
svg .border { stroke: var(--given); stroke-dasharray: 4 3; fill: none;
  vector-effect: non-scaling-stroke }
.strip { width: 100%; height: 64px; display: block; margin-top: 8px;
  border-bottom: 1px solid var(--rule) }
.plots { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)) }
.plots figure { margin: 0; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 12px 14px 6px }
.plots figcaption { font-size: 14px; color: var(--ink); font-weight: 600; margin-bottom: 4px }
.plots small { font-weight: 400 }
.plot { width: 100%; display: block }
details { margin-top: 8px } summary { cursor: pointer; font-size: 13px; color: var(--soft) }
details table { width: auto; font-size: 13px } details td, details th { padding: 3px 12px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; font-size: 14px }
dt { font-weight: 600 } dd { margin: 0; color: var(--soft) }
.s0 { --s: var(--i0) } .s1 { --s: var(--i1) } .s2 { --s: var(--i2) } .s3 { --s: var(--i3) }
.s4 { --s: var(--i4) } .s5 { --s: var(--i5) } .s6 { --s: var(--i6) } .s7 { --s: var(--i7) }
@media (max-width: 700px) { body { padding: 16px 12px } .plots { grid-template-columns: 1fr }
  dl { grid-template-columns: 1fr } .card { padding: 10px } .sheet { gap: 3px }
  figcaption { font-size: 10px } }
@media print { body { max-width: none } .card, .plots figure { break-inside: avoid } }
"""
