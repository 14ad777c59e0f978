"""A folder's pictures, recordings, films, papers, notes and code, found again by meaning and by word."""
