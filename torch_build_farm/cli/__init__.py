"""What a person types and reads: one module per command, over the rooms that do the work.

| step | modules |
|---|---|
| which commands there are, and how a call ends | main |
| a command's arguments, options and work | command, arguments, selection |
| what every command works with | context |
| what people read while jobs run and at the end | report |
| the JSON documents and their schemas | answer, run_answer, schemas |
"""
