"""Sequences as they come, and batches as layers take them, in NumPy and on the host."""

from noria.data.epochs import Epochs as Epochs
from noria.data.epochs import rows_of_process as rows_of_process
from noria.data.frames import TimeSeries as TimeSeries
from noria.data.frames import calendar as calendar
from noria.data.frames import from_frame as from_frame
from noria.data.packed import Packed as Packed
from noria.data.packed import packed as packed
from noria.data.prefetch import Prefetched as Prefetched
from noria.data.prefetch import prefetch as prefetch
from noria.data.ragged import Batches as Batches
from noria.data.ragged import batches as batches
from noria.data.ragged import pad as pad
from noria.data.samples import co2 as co2
from noria.data.samples import japanese_vowels as japanese_vowels
from noria.data.store import Ragged as Ragged
from noria.data.streams import Streams as Streams
from noria.data.streams import streams as streams
from noria.data.windows import folds as folds
from noria.data.windows import split as split
from noria.data.windows import windows as windows
