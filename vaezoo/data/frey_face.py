"""The Frey face data set as a TFDS builder: 1965 frames of one face, 28x20, from a file that is placed by hand."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

FILE_NAME = "frey_rawface.mat"


class FreyFace(tfds.core.GeneratorBasedBuilder):
    """DatasetBuilder for the video frames of Brendan Frey's face, in their order in time."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Place {FILE_NAME}, from Sam Roweis' data page, in the manual folder (<data_dir>/downloads/manual)."
    )

    def _info(self):
        return self.dataset_info_from_configs(
            description="1965 frames, 28x20 uint8, of Brendan Frey's face, from a short video.",
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 20, 1), dtype=np.uint8)}),
            homepage="https://cs.nyu.edu/~roweis/data.html",
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(pathlib.Path(dl_manager.manual_dir) / FILE_NAME)}

    def _generate_examples(self, path):
        from scipy.io import loadmat

        if not path.exists():
            raise FileNotFoundError(f"{FILE_NAME} must be at {path}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        frames = loadmat(path)["ff"]  # uint8 [560, 1965], one column a frame
        if frames.shape != (560, 1965) or frames.dtype != np.uint8:
            raise ValueError(f"`ff` of {path} must be uint8 [560, 1965]. Received: {frames.dtype} {list(frames.shape)}")
        for index, frame in enumerate(frames.T):
            yield index, {"image": frame.reshape(28, 20, 1)}
