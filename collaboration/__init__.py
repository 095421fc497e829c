"""Image level: is the cheap student's image good enough, or must the teacher step in?"""
