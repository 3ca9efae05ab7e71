"""Images: reading, caching, QR codes and datasets."""
