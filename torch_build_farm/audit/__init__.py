"""Which torch releases a wheel loads and computes with, told from its libraries alone.

| step | modules |
|---|---|
| what is in the wheel | wheel, elf, marks |
| what is known of torch's releases | knowledge, index, layout, marks; remote reads them from the package index |
| where the loader would find what a library asks for | scope |
| library by library, release by release | verdict, built, rules |
| the wheel's own verdicts, and METADATA's claim | matrix, floors |
| for people and programs | show, commands |
"""
