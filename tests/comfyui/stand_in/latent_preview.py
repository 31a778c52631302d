from comfy.cli_args import args

default_preview_method = args.preview_method
