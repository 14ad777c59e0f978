"""Files of pictures, sound, moving pictures and pages: recognised, decoded within limits, encoded back."""
