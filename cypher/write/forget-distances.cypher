// Remove the distances of datasets whose images are others now, where an extractor measured them; recorded ones without stay.
// An edge that has no value left goes. So do its copies for Neo4j Browser, since they show a value that may be gone.
MATCH (graph:MatchGraph)
UNWIND $ids AS id
MATCH (:MatchGraphDataset {id: id})-[e:SIMILAR]-(:MatchGraphDataset)
WITH DISTINCT e, graph.metrics AS metrics, [name IN graph.metrics WHERE e[name + '__extractor'] IS NOT NULL] AS gone
WHERE size(gone) > 0
WITH e, metrics, gone, startNode(e) AS a, endNode(e) AS b
OPTIONAL MATCH (a)-[copy:NEAREST|NEAR {matchgraph: true}]-(b)
WITH e, metrics, gone, collect(copy) AS copies
FOREACH (copy IN copies | DELETE copy)
FOREACH (key IN [k IN keys(e) WHERE k IN gone OR any(name IN gone WHERE k STARTS WITH name + '__')] | SET e[key] = null)
// What was derived for Neo4j Browser, too: all that is neither a metric nor one's provenance.
FOREACH (key IN [k IN keys(e) WHERE NOT k CONTAINS '__' AND NOT k IN metrics] | SET e[key] = null)
WITH e, metrics
WHERE none(name IN metrics WHERE e[name] IS NOT NULL)
DELETE e
