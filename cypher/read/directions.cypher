// The directions that statistics by one extractor are sketched in; null where there are none yet.
MATCH (graph:MatchGraph)
RETURN graph['directions__' + $extractor] AS directions
