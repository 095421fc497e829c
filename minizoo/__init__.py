"""A small real zoo: tiny text-to-image pipelines, a tiny CLIP and captioned datasets, trained in the open.

The builders are in `minizoo.build`, which a checkout has and an installation has not.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
