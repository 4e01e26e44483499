LDLIBS := -ljpeg -ljansson
