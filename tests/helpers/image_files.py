"""Arrays, and files of them, for tests of reading."""

import nibabel
import numpy as np

OBLIQUE = np.array([[0.7, -0.2, 0.1, 12.5], [0.25, 0.9, -0.3, -7.0], [0.05, 0.2, 2.5, 101.25], [0, 0, 0, 1]])


def random_array(dtype=np.int16, shape=(17, 23, 11)):
    low = 0 if np.dtype(dtype).kind == "u" else -100
    return np.random.default_rng(0).integers(low, 100, shape).astype(dtype)


def save_nifti(path, values, affine=OBLIQUE, kind=nibabel.Nifti1Image, slope=None, order="<", unit="mm"):
    image = kind(values, affine, kind.header_class(endianness=order))
    image.header.set_data_dtype(values.dtype)
    image.header.set_xyzt_units(unit)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    if slope is not None:  # nibabel resets the scaling when it saves; 112 and 116 are its places in NIfTI-1
        raw = bytearray(path.read_bytes())
        raw[112:120] = np.array(slope, order + "f4").tobytes()
        path.write_bytes(raw)
    return path


def save_itk(path, values, dims=3, vector=False, compression=False):
    import itk

    image = itk.image_from_array(values, is_vector=vector)
    angle = 0.4
    direction = np.eye(dims)
    direction[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetSpacing([0.5, 0.75, 2.5, 1.0][:dims])
    image.SetOrigin([-10.0, 20.0, 30.0, 0.0][:dims])
    itk.imwrite(image, str(path), compression=compression)
    return path
