"""How the HTML report looks: light and dark, wide and narrow, on screen and on paper."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """\
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --card: #f6f8fa;
  --good: #1a7f37; --bad: #c5221f; --warn: #8a5a00;
  --c0: #0b66c3; --c1: #b3520a; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #4d5d6b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --card: #161b22;
    --good: #56d364; --bad: #ff7b72; --warn: #e3b341;
    --c0: #58a6ff; --c1: #f0883e; --c2: #56d364; --c3: #bc8cff; --c4: #ff7bbf; --c5: #a3b1bf;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif;
}
h1 { margin: 0 0 .3rem; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem }
h3 { margin: 0; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }
.product, footer { color: var(--soft); font-size: .875rem }
.product { margin: 0 }
.why { margin: .3rem 0 0; max-width: 60rem; overflow-wrap: anywhere }
ul.why { padding-left: 1.2rem }
.verdict { display: inline-block; padding: 0 .6rem; border-radius: 1rem; font-size: 1.1rem; border: 2px solid }
.verdict.pass, .good { color: var(--good) }
.verdict.fail, .bad { color: var(--bad) }
.verdict.invalid { color: var(--warn) }
.good, .bad { font-weight: 600 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .6rem; margin: 1.4rem 0 0 }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem }
dt { color: var(--soft); font-size: .875rem }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px }
table { border-collapse: collapse; min-width: min(100%, 40rem); font-variant-numeric: tabular-nums }
th, td { padding: .35rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child { text-align: left; padding-left: 0 }
thead th { color: var(--soft); font-weight: 500; font-size: .875rem; vertical-align: bottom }
tbody th { font-weight: 500 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline; justify-content: space-between }
figcaption ul { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; list-style: none; font-size: .875rem; color: var(--soft) }
figcaption li { overflow-wrap: anywhere }
figcaption li::before { content: ""; display: inline-block; width: 1.4rem; margin-right: .4rem; vertical-align: .25em; border-top: 3px solid var(--c) }
figcaption li.dashed::before { border-top-style: dashed }
.swatch { display: inline-block; width: .7rem; height: .7rem; margin-right: .5rem; border-radius: .15rem; background: var(--c) }
.c0 { --c: var(--c0) } .c1 { --c: var(--c1) } .c2 { --c: var(--c2) }
.c3 { --c: var(--c3) } .c4 { --c: var(--c4) } .c5 { --c: var(--c5) }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; overflow: visible }
svg .background { fill: none }
svg .band { fill: var(--warn); opacity: .13 }
.shaded { margin: 0 0 .8rem; color: var(--soft); overflow-wrap: anywhere }
.shaded::before { content: ""; display: inline-block; width: 1.1rem; height: .8rem; margin-right: .5rem; background: var(--warn); opacity: .25 }
svg text { fill: var(--soft); font-size: 13px; stroke: none }
svg .axis.y text { text-anchor: end }
svg .axis.x text { text-anchor: middle }
svg .axis path { stroke: var(--line); fill: none }
svg .axis.x .guide { stroke: none }
svg .line path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round }
svg .line.dashed path { stroke-dasharray: 6 4; stroke-width: 1.5 }
svg .dot circle { fill: var(--c); opacity: 0 }
svg .dot circle:hover, svg .dot.alone circle { opacity: 1 }
details { margin-top: 2rem }
summary { cursor: pointer; font-weight: 600 }
details .wide { max-height: 30rem; overflow: auto; margin-top: .6rem }
footer { margin-top: 2.5rem }
@media print { details { display: none } figure, tr { break-inside: avoid } }
"""  # noqa: E501
