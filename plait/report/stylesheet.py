"""The stylesheet of the page. It asks for no font and no file."""

from __future__ import annotations

STYLESHEET = """
:root {
  --surface: #f6f7f8; --card: #ffffff; --ink: #1c2126; --muted: #66707a; --line: #e3e6e9;
  --accent: #0b6a8f; --notice: #fdf3e1; --notice-ink: #704a05;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --surface: #121517; --card: #1a1e22; --ink: #eceff1; --muted: #9aa4ae; --line: #2b3137;
    --accent: #56b8dc; --notice: #33290f; --notice-ink: #f0cd85;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--surface); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1, h2, .headline { overflow-wrap: anywhere; }
.eyebrow {
  margin: 0; color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .06em;
  text-transform: uppercase;
}
h1 { margin: .2rem 0 1rem; font-size: clamp(1.8rem, 5vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em; }
h2 { margin: 3.5rem 0 1rem; font-size: 1.4rem; letter-spacing: -.01em; }
.headline {
  margin: 0 0 1rem; font-size: clamp(1.1rem, 2.6vw, 1.35rem); line-height: 1.5; max-width: 46rem;
  text-wrap: pretty;
}
.quiet { color: var(--muted); font-size: .875rem; margin: .75rem 0 0; }
.notice {
  background: var(--notice); color: var(--notice-ink); padding: .75rem 1rem; border-radius: .5rem;
  margin: 0 0 1rem;
}
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: 1px; margin: 2.5rem 0 0;
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; overflow: hidden;
}
.figures div { box-shadow: 0 0 0 1px var(--line); padding: 1rem 1.2rem; }
.figures dt { color: var(--muted); font-size: .85rem; }
.figures dd {
  margin: .1rem 0 0; font-size: 1.45rem; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums;
}
.figures small { display: block; color: var(--muted); font-size: .8rem; font-weight: 400; letter-spacing: 0; }
figure, .table, .command, .pairs {
  position: relative; margin: 0 0 1.25rem; overflow-x: auto;
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
}
figure { padding: .75rem; }
figure img { display: block; width: 100%; height: auto; }
.table { padding: 1rem 1.25rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .75rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th {
  border-top: 0; color: var(--muted); font-weight: 500; white-space: normal; vertical-align: bottom; line-height: 1.3;
}
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.words { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.command { padding: 1rem 1.25rem; }
.command code { font: .85rem/1.7 ui-monospace, "Liberation Mono", Menlo, Consolas, monospace; }
.command span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
.pairs {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .6rem 1.5rem;
  padding: 1rem 1.25rem; font-size: .9rem;
}
.pairs dt { color: var(--muted); font-size: .8rem; }
.pairs dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding: 2rem 1rem 3rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures div { padding: .75rem .9rem; }
  .figures dd { font-size: 1.2rem; }
  .pairs { grid-template-columns: 1fr 1fr; }
  .table { padding: .75rem 1rem; }
  th, td { padding: .4rem .45rem; }
}
@media print {
  :root { --surface: #ffffff; --card: #ffffff; --ink: #000000; --muted: #444444; --line: #cccccc; --accent: #0b6a8f; }
  main { max-width: none; padding: 0; }
  h2 { margin-top: 2rem; break-after: avoid; }
  figure, .figures, tr, p { break-inside: avoid; }
  figure, .table, .command, .pairs { overflow: visible; }
  .figures { grid-template-columns: repeat(4, 1fr); }
  .figures dd { font-size: 1.1rem; }
  .pairs { grid-template-columns: repeat(3, 1fr); }
}
"""
