"""What these tests share."""

from tests.plain_convolutions import plain_convolutions as plain_convolutions
