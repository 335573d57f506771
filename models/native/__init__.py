"""C beside Python: how it is built (:mod:`.build`), and the passes over events that it has (:mod:`.events`)."""
