"""manifest.json beside golden pictures: what they are of, and what made them."""

import json

import diffusers
import PIL
import torch


def write_manifest(folder, pictures, with_pillow=False, **settings):
    """`settings` are those of all pictures; `with_pillow`: it took part beyond writing files."""
    versions = {"diffusers": diffusers.__version__}
    if with_pillow:
        versions["pillow"] = PIL.__version__
    versions["torch"] = torch.__version__.split("+")[0]
    manifest = {**settings, "versions": versions, "pictures": pictures}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
