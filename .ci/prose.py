#!/usr/bin/env python3
"""Measures the English of Go comments and of Markdown.

    prose.py FILE...           prints the figures of each file
    prose.py -v FILE...        prints the worst sentences too
    prose.py -check [FILE...]  fails when a file breaks a limit

The figures: sentences, mean and 90th percentile of words, relative words per
sentence (that, which, who, whom, whose, what, whatever, whoever), sentences
that begin with a relative word and no actor, sentences of more than 30 words,
banned phrases, and comment lines of more than 100 columns.

-check without files takes every Go and Markdown file of the root module.
"""
import os
import re
import sys

MAX_RELATIVE = 0.35  # per sentence
MAX_P90 = 26  # words
MAX_COLUMNS = 100
FEW = 5  # a file with so few sentences gets a little more room

RELATIVE = re.compile(r'\b(that|which|who|whom|whose|what|whatever|whoever)\b', re.I)
FRONT = re.compile(r'^(What|Who|Whose|Whom|Whoever|Whatever'
                   r'|Of (what|which|whom|that|such)|To (be|have) \w+ed)\b')
BANNED = re.compile(r'\b(as ever|anew|for want of|has it\b|whose it is|to whom|is told\b|are told\b'
                    r'|the ordinary way|as it is one|such as are|behind it|in its place)', re.I)

root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def sentences(text):
    text = re.sub(r'`[^`]*`', 'X', re.sub(r'\s+', ' ', text))
    parts = re.split(r'(?<=[.!?:])\s+(?=[A-Z\[*])', text)
    return [s for s in parts if len(s.split()) > 3]


def go_blocks(path):
    """Returns (line, text) for each comment, and the number of long lines."""
    blocks, block, start, long = [], [], 0, 0
    for n, line in enumerate(open(path, errors='ignore'), 1):
        m = re.match(r'\s*// ?(.*)', line)
        if m and len(line.rstrip('\n').expandtabs(4)) > MAX_COLUMNS:
            long += 1
        text = m and m.group(1)
        if text and text.strip() and not text.startswith(('\t', '    ', 'go:', '#')):
            if not block:
                start = n
            block.append(text.strip())
        elif block:
            blocks.append((start, ' '.join(block)))
            block = []
    if block:
        blocks.append((start, ' '.join(block)))
    return blocks, long


def markdown_blocks(path):
    """The same for Markdown: its lines may have any length."""
    text = re.sub(r'```.*?```', lambda m: '\n' * m.group(0).count('\n'), open(path).read(), flags=re.S)
    blocks, n = [], 1
    for block in re.split(r'(\n\s*\n)', text):
        if not block.startswith(('    ', '|', '#')) and block.strip():
            blocks.append((n, re.sub(r'^\s*[*-] ', '', block, flags=re.M)))
        n += block.count('\n')
    return blocks, 0


class Figures:
    def __init__(self, path):
        blocks, self.long = (go_blocks if path.endswith('.go') else markdown_blocks)(path)
        self.path = os.path.relpath(path, root) if os.path.isabs(path) else path
        self.all = [(line, s) for line, block in blocks for s in sentences(block)]
        self.words = sorted(len(s.split()) for _, s in self.all)
        self.relative = sum(len(RELATIVE.findall(s)) for _, s in self.all)
        self.front = [x for x in self.all if FRONT.match(x[1])]
        self.banned = [x for x in self.all if BANNED.search(x[1])]
        self.p90 = self.words[int(len(self.words) * .9)] if self.words else 0

    def row(self):
        n = len(self.all)
        return (f'{self.path[-48:]:48} {n:5} {sum(self.words) / n:5.1f} {self.p90:4} {self.relative / n:6.2f} '
                f'{len(self.front):5} {sum(w > 30 for w in self.words):5} {len(self.banned):6} {self.long:5}')

    def faults(self):
        """Returns a line for each limit that the file breaks."""
        n, out = len(self.all), []
        if n <= FEW:
            most_relative, most_words = 2, 30
        else:
            most_relative, most_words = n * MAX_RELATIVE, MAX_P90
        if self.relative > most_relative:
            out.append(f'{self.relative} relative words in {n} sentences, the limit is {most_relative:.1f}')
        if self.p90 > most_words:
            out.append(f'one sentence in ten has {self.p90} words or more, the limit is {most_words}')
        out += [f'line {line}: no actor in front: {s}' for line, s in self.front]
        out += [f'line {line}: banned phrase: {s}' for line, s in self.banned]
        if self.long:
            out.append(f'{self.long} comment lines over {MAX_COLUMNS} columns')
        return [f'{self.path}: {fault}' for fault in out]

    def bad(self):
        """Returns (score, where, sentence) for each bad sentence."""
        for line, s in self.all:
            score = (len(RELATIVE.findall(s)) + 2 * bool(FRONT.match(s)) + len(BANNED.findall(s))
                     + max(0, len(s.split()) - 25) / 8)
            if score >= 4:
                yield score, f'{self.path}:{line}', s


def module_files():
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith('.') and f not in ('node_modules', 'testdata')
                      and not os.path.exists(os.path.join(folder, f, 'go.mod'))]
        for f in sorted(files):
            if f.endswith(('.go', '.md')):
                yield os.path.join(folder, f)


def check(paths):
    failed = [fault for path in paths or module_files() for fault in Figures(os.path.abspath(path)).faults()]
    print('\n'.join(failed), end='\n' if failed else '')
    return 1 if failed else 0


def main():
    options = [a for a in sys.argv[1:] if a.startswith('-')]
    paths = [a for a in sys.argv[1:] if not a.startswith('-')]
    if set(options) - {'-v', '-check'}:
        sys.exit(__doc__)
    if '-check' in options:
        sys.exit(check(paths))
    print(f"{'file':48} {'sent':>5} {'mean':>5} {'p90':>4} {'rel/s':>6} {'front':>5} {'>30w':>5} {'banned':>6} {'>100c':>5}")
    bad = []
    for path in paths:
        figures = Figures(path)
        if figures.all:
            print(figures.row())
            bad += figures.bad()
    if '-v' in options:
        for score, where, s in sorted(bad, reverse=True):
            print(f'\n{score:4.1f} {where}\n     {s}')


main()
