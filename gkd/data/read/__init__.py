"""Reading images: data sets by name, class folders, zips, any torch data set."""
