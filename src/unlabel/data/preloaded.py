"""What the server of readers imports before it forks them, once for all.

Settled, so that no collector looks through it again: not in a reader, where that would copy every
page that is shared with the server, nor as the server ends.
"""

from unlabel.memory import settle, uncollected

settle()
with uncollected():
    import pandas  # noqa: F401  # pyarrow does with the first column that it reads

    import unlabel.data.views  # noqa: F401
