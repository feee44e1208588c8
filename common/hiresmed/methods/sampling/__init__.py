"""From numbered latents to a folder of images, and the comparison of two sets: shared by unconditional generators."""

from .sample_folder import SampleFolder
from .sample_report import SampleReport
from .samples import GeneratedImage, NumberedSamples, SampleBlocks, sample_affine
from .set_comparison import SetComparison
from .transforms import SaveSamplesd, StoredSamplesd
