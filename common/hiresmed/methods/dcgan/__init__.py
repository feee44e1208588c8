"""DCGAN and WGAN-GP for slices of brain MR (Cepa, Brito and Sousa 2024)."""

from .networks import DcganCritic, DcganGenerator
