"""Which torch releases a wheel loads and computes with, judged from its libraries alone, without running it.

| step | modules |
|---|---|
| what is in the wheel | read_wheel |
| what is known about torch's releases | tables, over releases.release_tables |
| where the loader would find what a library needs | loader |
| library by library, release by release | verdict, built_against, layout_rules |
| the wheel's own verdicts, and METADATA's claim | wheel_report, symbol_versions |
| what changed between two releases, and which wheels it breaks | changes |
| for people and programs | output |
"""
