// One row, unless one of these datasets has other content by now than was read of it. Run after lock.cypher in one transaction.
// Parameters: nodes, a list of {id, contents}: hashes of the content that it may have; one without a hash may be joined.
WITH [node IN $nodes WHERE EXISTS {
       MATCH (d:MatchGraphDataset {id: node.id})
       WHERE d.content_hash IS NOT NULL AND NOT d.content_hash IN node.contents
     }] AS changed
WHERE size(changed) = 0
RETURN true AS current
