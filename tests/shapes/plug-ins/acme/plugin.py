def register():
    return 1
