"""slmquant's own format: a quantized model stored exactly, in safetensors."""

from slmquant.formats.native.folder import FORMAT as FORMAT
from slmquant.formats.native.folder import MANIFEST as MANIFEST
from slmquant.formats.native.folder import encode as encode
from slmquant.formats.native.folder import is_native as is_native
from slmquant.formats.native.folder import load as load
from slmquant.formats.native.folder import save as save
