def write(f,o): return ""
def publish(*a): pass
