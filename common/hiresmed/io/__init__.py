"""Files in and out: readers, writers, DICOM, TIFF, pictures, stores, one case's output."""

from .evaluator_batch import case_batch, single_case
from .host import ToHostd
from .image_kind import ImageKind
from .load import LoadImageStreamd
from .ome_zarr import open_level
from .outputs import CaseOutput
from .readers import cases, open_volume
from .save import SaveImageSegmentedd, SaveImageStreamd
from .served import RequestedLatentd, ServedImaged
from .stores import MemoryStores, ZarrStores
from .writers import save_volume
