"""The file formats of scenes: one module each; `reader.READERS` lists them."""
