"""Point-cloud scenes, from a file to arrays that are ready for training.

- `reader`: read a scene of any format; to add one, start here. `formats/` has a module for each, `pickles/` the
  restricted pickle reader.
- `scene`: what a scene is, and the checks of its arrays.
- `sources`, `manifest`: list the scenes of a folder, divide them into splits, check them.
- `normals`, `trees/`, `cache`: estimate normals, build region trees, and keep prepared scenes on disk.
- `views`: the random views of a batch.
- `synthetic_rooms/`: scenes without data.
"""
