#!/usr/bin/env python3
"""A picture of a terminal, as SVG on standard output, from what a program printed there.

    tests/demo.sh | docs/picture.py >docs/demo.svg
"""

import html
import re
import sys

COLUMNS, LINE, GLYPH, MARGIN = 100, 17, 7.83, 14


def wrapped(line):
    """Long lines as a terminal shows them, and at least one."""
    return [line[i : i + COLUMNS] for i in range(0, max(len(line), 1), COLUMNS)]


def row(number, line):
    kind = "step" if re.match(r"\d+\. ", line) else "typed" if line.startswith("   $ ") else "said"
    y = MARGIN + (number + 1) * LINE - 4
    return f'<text class="{kind}" x="{MARGIN}" y="{y}" xml:space="preserve">{html.escape(line)}</text>'


def main():
    # Names of the folder of this run alone are as long as they are meaningless.
    text = re.sub(r"/\S*?/demo\.\w{6}", "/tmp/demo", sys.stdin.read().strip("\n"))
    lines = [piece for line in text.split("\n") for piece in wrapped(line)]
    width = round(COLUMNS * GLYPH + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
          f'width="{width}" height="{height}" font-family="monospace" font-size="13">')
    print("<style>.step{fill:#ffd479;font-weight:bold}.typed{fill:#8fd6ff}.said{fill:#d8dee9}</style>")
    print(f'<rect width="{width}" height="{height}" rx="6" fill="#1d2330"/>')
    print("\n".join(row(number, line) for number, line in enumerate(lines) if line))
    print("</svg>")


main()
