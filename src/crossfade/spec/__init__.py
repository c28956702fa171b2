"""`crossfade.yaml`: what a service is, how it is built, run, checked and rolled out.

`loader.load` reads a file, `models.Spec` is what it says, `reference.yaml` is example, schema and documentation at
once, and `propose.propose` writes a first one from what it finds in a folder.
"""
