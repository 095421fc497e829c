// Students, their teachers, and their calibration
// Each distilled model with its teacher, the calibration of the threshold between them, and the tuned settings.
MATCH (student:MatchGraphModel)-[e:DISTILLED_FROM]->(teacher:MatchGraphModel)
RETURN student.id AS student, teacher.id AS teacher, e.metric AS oracle, e.steps AS student_steps,
       e.samples AS calibrated_on, e.k AS percentile, e.percentiles[toInteger(e.k)] AS threshold, e.rollback AS rollback,
       e.teacher_steps AS teacher_steps, e.tflop AS mean_tflop, e.quality AS mean_quality
ORDER BY teacher, student
