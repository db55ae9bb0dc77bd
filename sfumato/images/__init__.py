"""Images in and out: any common kind of image to RGB, RGB to the size a model allows, tensors, files with a recipe.

`image` is a PIL image, `pixels` a tensor in [-1, 1]. Nothing is repaired in silence: what was done to an image is
in the `notes` of the result, and what cannot be done is an `ImageError` that names the image and the remedy.
"""

from sfumato.images.alpha import as_transparent, faded, flattened, lifted
from sfumato.images.fitting import FITS, Fit, FittedImage, fit_image
from sfumato.images.pace import EASINGS, Easing, Pace
from sfumato.images.pixels import to_images, to_pixels
from sfumato.images.reading import MAX_PIXELS, ImageSource, LoadedImage, load_image
from sfumato.images.video import MOVIES, check_movie_path, save_movie
from sfumato.images.writing import as_png, check_writable, png_bytes, read_recipe, recipe_in, save_image

__all__ = [
    "EASINGS",
    "FITS",
    "MAX_PIXELS",
    "MOVIES",
    "Easing",
    "Fit",
    "FittedImage",
    "ImageSource",
    "LoadedImage",
    "Pace",
    "as_png",
    "as_transparent",
    "check_movie_path",
    "check_writable",
    "faded",
    "fit_image",
    "flattened",
    "lifted",
    "load_image",
    "png_bytes",
    "read_recipe",
    "recipe_in",
    "save_image",
    "save_movie",
    "to_images",
    "to_pixels",
]
