"""Files of tuned models: our adapter folder, and what the methods' official code saves."""

from vision_peft.formats.adapter_files import read_adapter_info
from vision_peft.formats.adapter_folder import load_adapter, save_adapter
from vision_peft.formats.foreign.read import Foreign, read_foreign, write_foreign

__all__ = ["Foreign", "load_adapter", "read_adapter_info", "read_foreign", "save_adapter", "write_foreign"]
