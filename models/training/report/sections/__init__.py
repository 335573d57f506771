"""The page's sections: each module makes the lines of one, or of one and its details, from the results."""
