"""The commit-msg hook: fails if the first line of a commit message has more than 72 characters.

python tools/commit_subject.py FILE
"""

import sys
from pathlib import Path

LONGEST = 72

if __name__ == "__main__":
    subject = Path(sys.argv[1]).read_text(encoding="utf-8").split("\n", 1)[0].rstrip()
    if len(subject) > LONGEST:
        kept, cut = subject[:LONGEST], subject[LONGEST:]
        sys.exit(f"The first line has {len(subject)} characters; at most {LONGEST} are allowed:\n{kept} | {cut}")
